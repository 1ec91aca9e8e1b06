"""SageMaker grown at home: the server, the command and everything between a request and a trained model.

The way through: wire → services → state ⇄ lifecycle → cluster → host. See docs/explanation/architecture.md.
"""

__version__ = "0.1.0"
