"""What scripts use of AWS's sagemaker-training: `environment` and `logging_config`."""
