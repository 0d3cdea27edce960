"""Monitoring: windows of predictions, drift, delayed labels, alerts and what is done about them."""
