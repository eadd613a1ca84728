"""Topics and access lists of a mesh, made from the registry: what services with least rights find when they start.

Imports nothing but `shared`, so that an image of tools can do without the rest.
"""
