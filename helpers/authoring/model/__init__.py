"""Making the classroom model: its dialogues, its tokenizer, its training, and the widened copy for a GPU."""
