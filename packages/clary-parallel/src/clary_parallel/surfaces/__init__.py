"""What other libraries' programs call, said in our terms: Horovod and SageMaker's data parallel library for TensorFlow.

The modules in `compat` have those libraries' names and hold nothing but what is imported from here.
"""
