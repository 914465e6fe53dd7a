"""Training in several processes: one a GPU, on one machine or many, under PyTorch's elastic launcher.

- ``rendezvous``: where they meet, what rank 0 has planned, and why one of them failed.
- ``process_group``: how they divide a batch, and what they compute together.
- ``layers``: batch norm and dropout over the batch of all processes.
- ``strategy``: copies of the network that average their gradients (DDP), or shards of it (FSDP2).

They are started on this machine by :mod:`dltrain.trained.launch`. What a launcher says in the environment is read by
:mod:`dltrain.system.process`; checkpoints of sharded networks are written by :mod:`dltrain.runs.writer`.
"""
