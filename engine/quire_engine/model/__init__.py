"""The model: transformers' modelling code over our attention, its steps, tokens and proof."""
