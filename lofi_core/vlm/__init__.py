"""How a Hugging Face vision-language model is driven: its images, prompts and layers."""
