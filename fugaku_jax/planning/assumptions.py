"""What programs make of machines: the assumptions of the step-time model, and where each is from."""

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
