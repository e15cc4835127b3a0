"""Tables, figures and pages of what a store holds."""
