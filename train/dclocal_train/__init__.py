"""Training of Dense Connector models: data, stages and the run itself."""
