"""The words every part of CaR Labeler shares: plain types, no torch, no database, no web."""
