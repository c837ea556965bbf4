"""Truth: simulated skies, telescopes, and sources injected into real images."""
