"""The studies: data, network and trigger of each; no algorithm."""
