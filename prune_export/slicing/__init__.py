"""Slices the residual stream of an encoder: fewer dimensions after each norm, by rotation into a basis of its own.

LayerNorm divides what is left of the residual sum z after its mean is removed: n = sqrt(d) · Mz / |Mz| with M = I - 11'/d,
and x = alpha ∘ n + beta. The states n of a network lie near a subspace. With an orthonormal basis V `[d, k]` of it,
p = w · V'Mz / rms(V'Mz) takes the place of n, which an RMSNorm of width k computes:

- what reads x, reads A p + c instead, with A = diag(alpha) V and c = beta: weight W A, bias W c + b;
- what is added to the next residual sum, is multiplied by V'M of that norm, embeddings included;
- the residual stream itself goes past a block through a skip matrix V'M A, because each norm has its own basis.

With k = d, or d - 1, nothing is lost; below, A, c and what is added are fitted anew (`refit`).

In a pre-norm network (Ashkboos et al. 2024, "SliceGPT", section 3.3) the stream holds V'Mz itself, which goes past a block
through V'M V of the two bases, without alpha and beta. What a block reads is a norm of it, of the form above.
"""
