"""The classroom model: a ~1 M-parameter reasoning model that speaks DeepSeek-R1's protocol."""
