"""Training of SceneVLM."""
