"""The model server behind the word `serve`: AWS's TensorFlow Serving image and sagemaker-inference's functions in one.

Called by the `serve` command alone. Standard library, numpy and the image's own TensorFlow; Python 3.7 to 3.13. The way
of a request: `http` parses it, `application` routes it, `prediction` makes tensors of it, `batching` gives it to an
`execution.Executor`, and the answer goes back the same way. With an inference.py, `handlers` or `functions` come first.
"""
