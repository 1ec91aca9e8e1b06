"""The TensorFlow estimator of 2019 under SDK v2, which asks only that py_version be given."""

import tempfile

import cifar_files
import sagemaker
from sagemaker.tensorflow import TensorFlow

role = sagemaker.get_execution_role()
inputs = sagemaker.Session().upload_data(cifar_files.write(tempfile.mkdtemp()), key_prefix="cifar10-v2")
estimator = TensorFlow(entry_point='source/cifar10.py', role=role, framework_version='1.14',
                       train_instance_count=1, train_instance_type='ml.p3.xlarge', py_version='py3')
print("image", estimator.training_image_uri())
estimator.fit({"train": inputs})
print("model", estimator.model_data)
