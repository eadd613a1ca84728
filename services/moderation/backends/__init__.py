"""Models and detectors that judge text, behind one port."""
