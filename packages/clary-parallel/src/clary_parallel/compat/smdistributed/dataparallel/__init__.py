"""SageMaker's data parallel library, carried out by clary_parallel."""
