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
    # Products and links are `published.fit` to the runs that it names, which don't tell the share
    # of the memory and that of the tensor groups' links apart: with ten times this one the four
    # are met as well, and only the run of 20 tensor devices is not.
    product={"fp32": 0.349, "bf16": 0.349, "fp16": 0.349},
    softmax_terms=48.0,
    stream=0.05,
    spanning=0.6,
    links=0.379,
    gradient_links=0.061,
    square_scores=True,
    score_passes=12.0,
)
"""The authors' PyTorch of 2023, before their own library of products and their all-reduce."""

AFTER = Software(
    # At the upper end of what it could have been. Products by its own library, of which no more is
    # published than that they were six times as fast: third parties reach 0.92 of the peak. Other
    # functions at six times the share fitted before. Its all-reduce three times as fast as fitted.
    product={"fp32": 0.90, "bf16": 0.90, "fp16": 0.90},
    softmax_terms=48.0,
    stream=0.3,
    spanning=0.6,
    links=1.0,
    gradient_links=0.18,
    square_scores=True,
    score_passes=12.0,
)
"""What the original's software could have been in its last run."""
