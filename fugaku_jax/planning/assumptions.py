"""What programs make of machines: what the step-time model assumes, and where that is from."""

from fugaku_jax.planning.rates import Software

OURS = Software(
    # Loops of 12.1 cycles for 24 multiply-adds (llvm-mca's A64FX, docs/a64fx.md), 24 / (2 · 12.1);
    # fp16 has 55.5 of 64 products a cycle with the ends of its blocks. bf16 is widened to fp32.
    product={"fp32": 0.93, "bf16": 0.90, "fp16": 0.86},
    softmax_terms=48.0,
    stream=0.8,
    spanning=0.6,
    links=1.0,
)

BEFORE = Software(
    # Of the authors' PyTorch 1.10 in 2023: `published.fit` to the runs that it names.
    product={"fp32": 0.25, "bf16": 0.25, "fp16": 0.25},
    softmax_terms=48.0,
    stream=0.5,
    spanning=0.6,
    links=0.3,
    gradient_links=0.3,
    square_scores=True,
    score_passes=12.0,
)
"""The original's software before its own matrix library and all-reduce, fitted to measured runs."""
