"""SceneVQA: drawn scenes with questions whose true answers are known exactly."""
