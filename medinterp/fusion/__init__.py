"""Registration and fusion of modalities."""
