"""Training sets that anyone can rebuild from packages: pictures with exact ground truth."""
