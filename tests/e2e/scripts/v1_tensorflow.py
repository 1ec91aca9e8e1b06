"""A script written for SageMaker SDK v1 in 2019. The call of TensorFlow(…) is as its author wrote it."""

import sys
import tempfile

import cifar_files
import sagemaker
from sagemaker.tensorflow import TensorFlow

role = sagemaker.get_execution_role()
sess = sagemaker.Session()
inputs = sess.upload_data(cifar_files.write(tempfile.mkdtemp()), key_prefix="cifar10")

estimator = TensorFlow(entry_point='source/cifar10.py', role=role, framework_version='1.14',
                       train_instance_count=1, train_instance_type='ml.p3.xlarge')
print("image", estimator.train_image())
estimator.fit({"train": inputs})

again = TensorFlow.attach(estimator.latest_training_job.name)
assert again.model_data == estimator.model_data
print("role", role)
print("bucket", sess.default_bucket())
print("model", estimator.model_data)
sys.stdout.flush()
