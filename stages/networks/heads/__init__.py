"""Detection heads: from the features of any backbone to boxes, classes and masks."""
