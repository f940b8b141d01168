"""Training recipes as YAML files; installed as ``groma_model.recipes``."""
