"""PhotoVLM: CLIP ViT-B/16 and SmolLM2-135M, joined by a connector and adapters trained here."""
