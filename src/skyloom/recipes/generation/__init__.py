"""What generates the text of `recipes.text_generation`: transformers or vLLM, behind one seam."""
