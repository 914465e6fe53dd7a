"""Training in several processes: one a GPU, on one machine or many, under PyTorch's elastic launcher.

- ``meeting``: where they find each other, what rank 0 has planned, and what has ended one of them.
- ``world``: how they divide a batch, and what they compute together.
- ``layers``: batch norm and dropout over the batch of all.
- ``strategy``: copies of the network that agree on gradients (DDP), or shards of it (FSDP2).

They are started on this machine by :mod:`dltrain.trained.launch`. What a launcher says in the environment is read by
:mod:`dltrain.system.worker`, checkpoints of shards are written by :mod:`dltrain.runs.sharded`.
"""
