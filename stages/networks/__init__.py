"""Networks behind the learned stages: their input, backbones, heads, weights and runtimes."""
