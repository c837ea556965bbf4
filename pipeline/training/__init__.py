"""Training of networks: data with labels, augmentation, the trainer, and what it writes."""
