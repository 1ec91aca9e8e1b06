"""SDK v3's own MPI driver on two hosts: it wants sshd, ssh, paramiko and mpirun in the image."""

import logging

from sagemaker.core import image_uris
from sagemaker.core.training.configs import Compute, SourceCode
from sagemaker.train import ModelTrainer
from sagemaker.train.distributed import MPI

logging.basicConfig(level=logging.INFO, format="%(message)s")
image = image_uris.retrieve(
    "tensorflow",
    region="us-east-1",
    version="2.19",
    py_version="py312",
    instance_type="ml.m5.large",
    image_scope="training",
)
trainer = ModelTrainer(
    training_image=image,
    source_code=SourceCode(source_dir="source", entry_script="ranks.py"),
    compute=Compute(instance_type="ml.m5.large", instance_count=2),
    # The driver starts as many ranks as are asked for one node: on AWS, too, they must be told to spread.
    distributed=MPI(process_count_per_node=2, mpi_additional_options=["--map-by", "node"]),
    base_job_name="v3-mpi",
)
trainer.train(wait=True, logs=True)
job = trainer._latest_training_job
job.refresh()
print("status", job.training_job_status)
