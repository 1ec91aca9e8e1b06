"""SageMaker's model parallel library, carried out by clary_parallel."""
