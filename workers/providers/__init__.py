"""How the channels' providers are spoken to: one module for each protocol or library, no policy."""
