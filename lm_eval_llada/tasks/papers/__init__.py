"""The protocols of LongLLaDA and UltraLLaDA."""
