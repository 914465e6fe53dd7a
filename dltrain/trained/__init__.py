"""From a configuration to a trained network, and what becomes of it: results, predictions, pages, exports."""
