"""Data parallel and model parallel training for TensorFlow and Keras, usable without Clary's server.

Imports nothing of Clary. TensorFlow and MPI are imported by the parts that need them, when they are used.
"""
