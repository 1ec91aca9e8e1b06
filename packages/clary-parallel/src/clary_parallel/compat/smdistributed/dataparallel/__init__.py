"""SageMaker's data parallel library, carried out by clary_parallel."""

__version__ = "1.8.0+clary"
