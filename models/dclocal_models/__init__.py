"""PyTorch definitions of Dense Connector models: vision backbones, connectors and the assembled model."""
