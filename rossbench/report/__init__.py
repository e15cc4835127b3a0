"""Tables of what a store holds. No torch."""
