"""CaR as a pure function of tensors. It knows no queue, database, file or clock."""
