"""Files of tables and series: how they are written, and what their columns hold."""
