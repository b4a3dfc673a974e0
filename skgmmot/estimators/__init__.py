"""The scikit-learn faces: validation, attributes, warnings; no formulas."""
