"""A generic Estimator of SDK v1 (and, unchanged, v2), with the call as its author wrote it."""

import sys
import tempfile

import boto3
import cifar_files
import sagemaker
import sagemaker.estimator

role = sagemaker.get_execution_role()
sess = sagemaker.Session()
bucket = sess.default_bucket()
training_image = sys.argv[1]
s3_output_location = f"s3://{bucket}/generic/output"
inputs = sess.upload_data(cifar_files.write(tempfile.mkdtemp()), key_prefix="cifar10-generic")
source = sess.upload_data("source.tar.gz", key_prefix="generic/code") if len(sys.argv) > 2 else None

estimator = sagemaker.estimator.Estimator(training_image, role, train_instance_count=1, train_instance_type='ml.p3.xlarge',
           train_volume_size=50, train_max_run=360000, input_mode='File', output_path=s3_output_location, sagemaker_session=sess)
if source:
    estimator.set_hyperparameters(
        sagemaker_program="cifar10.py", sagemaker_submit_directory=source, **{"train-steps": 20}
    )
estimator.fit({"train": inputs})

model = estimator.model_data
print("model", model)
assert model.startswith(s3_output_location), model
key = model.split("/", 3)[3]
assert boto3.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 1000
