"""Self-supervised pre-training of backbones on images without labels."""
