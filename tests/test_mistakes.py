"""Mistakes that people make: each gets one message that says what to type, exit 2, and leaves nothing behind."""

import importlib
import json
import sys

import pytest

TORCH = "torch.optim.lr_scheduler"
SEQUENCE = f"scheduler._target_={TORCH}.SequentialLR +scheduler.milestones=[3] +scheduler.schedulers"

LONG = 123456789012345678901234567890
TYPED = [
    # what is typed, and fragments that the one message must have
    # groups and options
    ("model=lsmt", ["model=lsmt", "did you mean 'lstm'?", "resnet18"]),
    ("model=cnnn", ["did you mean 'cnn'?", "gru, lenet, lstm"]),
    ("model=transformer", ["no option transformer; the options are cnn, gru"]),
    ("model=3", ["model has no option 3"]),
    ("model=null", ["model has no option null"]),
    ("model=[cnn,mlp]", ["one option of model is chosen at a time"]),
    ("logger=[csv,tensorbord]", ["no option tensorbord", "did you mean 'tensorboard'?"]),
    ("experiment=cifar10_lenett", ["did you mean 'cifar10_lenet'?"]),
    ("optm=sgd", ["optm", "did you mean 'optim'?"]),
    ("optim/foo=sgd", ["there is no group optim/foo", "did you mean 'optim'?"]),
    ("optim@second=sgd", ["a group is chosen by its name alone: optim=sgd"]),
    ("+model=mlp", ["without the plus sign: model=mlp"]),
    ("++model=mlp", ["without the plus sign: model=mlp"]),
    ("hydra/launcher=joblibb", ["hydra/launcher has no option joblibb", "basic"]),
    # keys
    ("trainer.epoch=3", ["trainer.epoch=3 (command line)", "did you mean 'trainer.epochs'?"]),
    ("+trainer.epoch=3", ["trainer has no key epoch", "did you mean 'trainer.epochs'?"]),
    ("++trainer.epoch=3", ["did you mean 'trainer.epochs'?"]),
    ("trainer.checkpoint.every=3", ["trainer.checkpoint has no key every", "every_n_epochs"]),
    ("trainer.epochs.x=3", ["trainer.epochs={x:3}", "whole number"]),
    ("trainer.early_stopping=5", ["trainer.early_stopping=5", "trainer.early_stopping.patience"]),
    ("optim.momentun=0.9", ["torch.optim.SGD has no argument momentun", "did you mean 'momentum'?"]),
    ("+optim.momentun=0.9", ["did you mean 'momentum'?"]),
    ("optim.maximize=true", ["write it with a plus sign, +optim.maximize=true"]),
    ("optim.params=3", ["optim.params=3", "dltrain fills this in itself"]),
    ("scheduler=step scheduler.gama=0.1", ["StepLR has no argument gama", "did you mean 'gamma'?"]),
    ("scheduler.gamma=0.1", ["scheduler=none has no key gamma"]),
    ("model=gru model.hiden_size=3", ["dltrain.models.GRU has no argument hiden_size", "did you mean 'hidden_size'?"]),
    ("dataset.batchsize=3", ["did you mean 'batch_size'?"]),
    ("+modle.x=1", ["modle", "did you mean 'model'?"]),
    ("lr=0.1", ["dltrain has no key or group lr", "did you mean 'optim.lr'?"]),
    ("hydra.run.dirr=x", ["hydra.run has no key dirr", "did you mean 'hydra.run.dir'?"]),
    ("hydra.job.num=abc", ["hydra.job.num=abc", "Integer"]),
    ("hydra.sweeps.dir=x", ["did you mean 'hydra.sweep'?"]),
    ("~hydra.run", ["hydra.run is always there", "hydra.run=..."]),
    ("~model.dropouts", ["there is no model.dropouts to take out", "did you mean 'dropout'?"]),
    ("~trainer.clip_norm", ["trainer.clip_norm is null", "leave this out"]),
    ("scheduler=cosine ~scheduler.T_max", ["has no value before the data are loaded", "scheduler.T_max=..."]),
    ("~optim.lr=3", ["optim.lr has another value", "write ~optim.lr"]),
    ("dataset=table ~dataset.path", ["dataset.path has no value: give", "dataset.path=..."]),
    ("--cfg job --package nothing", ["--package=nothing", "dltrain --cfg job"]),
    ("+optim.lr=0.1", ["optim.lr is there already", "without the plus sign"]),
    ("data.num_outputs=5", ["the data set fills this in"]),
    # grammar and flags
    ("==", ["'=='", "key=value", "trainer.epochs=5"]),
    ("model.channels=[3", ["model.channels=[3", "a bracket is not closed"]),
    ("optim.lr=0.1,0.2", ["dltrain -m optim.lr=0.1,0.2"]),
    ("model.channels=8,16", ["model.channels=[8,16]", "dltrain -m"]),
    ("--epochs=3", ["there is no flag --epochs=3", "epochs=..."]),
    ("--resolve", ["dltrain --cfg job --resolve"]),
    ("--config-path conf", ["--config-dir adds a folder"]),
    ("--cfg foo", ["invalid choice: 'foo'", "dltrain --hydra-help"]),
    ("train", ["there is no verb 'train'", "training takes none"]),
    ("--config-name confg", ["--config-name=confg", "did you mean 'config'?"]),
    ("--config-dir nowhere", ["--config-dir=nowhere", "no such folder"]),
    ("--multirun --cfg job", ["exclude each other"]),
    ("trainer.epochs==3", ["one = is enough: trainer.epochs=3"]),
    ("trainer.epochs = 3", ["without spaces, trainer.epochs=3"]),
    ("optim.betas=(0.9,0.99)", ["optim.betas=[0.9,0.99]"]),
    ("trainer.epochs", ["a key takes a value: trainer.epochs=..."]),
    ("~optim", ["a run needs an option of optim: adagrad"]),
    ("~trainer.epochs", ["trainer.epochs", "is missing", "at least 1"]),
    ("+hydra.runn.dir=x", ["hydra has no key runn", "did you mean 'run'?"]),
    ("hydra.run.dir=", ["hydra.run.dir='' (command line): is empty", "hydra.run.dir=my_run"]),
    ("hydra.verbose=3", ["hydra.verbose=3", "true or false"]),
    ("pruner=medain", ["no option medain", "did you mean 'median'?"]),
    ("pruner.n_warmup_steps=3", ["pruner=none has no key n_warmup_steps", "dltrain list pruner"]),
    ("pruner=median pruner.n_warmup=3", ["optuna.pruners.MedianPruner has no argument n_warmup", "did you mean"]),
    ("pruner=median pruner.n_startup_trials=-1", ["pruner.n_startup_trials=-1", "at least 0"]),
    ("pruner=hyperband pruner.reduction_factor=1", ["pruner.reduction_factor=1", "at least 2"]),
    ("pruner=hyperband pruner.min_resource=30", ["pruner.min_resource=30", "at most pruner.max_resource=20"]),
    ("pruner=hyperband pruner.min_resource=auto", ["pruner.min_resource='auto'", "a whole number"]),
    (
        "pruner=successive_halving pruner.min_resource=auto pruner.bootstrap_count=2",
        ["pruner.bootstrap_count=2", "a number of epochs as pruner.min_resource"],
    ),
    ("pruner=median pruner._target_=optuna.study.Study", ["is a class, but not a pruner", "BasePruner"]),
    # types and ranges of the closed part
    ("trainer.epochs=abc", ["trainer.epochs='abc'", "whole number of at least 1"]),
    ("trainer.epochs=0", ["trainer.epochs=0"]),
    ("trainer.epochs=2.5", ["trainer.epochs=2.5", "whole number"]),
    ("trainer.epochs=1e3", ["trainer.epochs=1000.0", "write 1000"]),
    ("trainer.precision=fp8", ["trainer.precision='fp8'", "bf16"]),
    ("trainer.compile=yes_please", ["trainer.compile='yes_please'", "true or false"]),
    ("trainer.ema_decay=1", ["trainer.ema_decay=1", "below 1"]),
    ("seed=-1", ["seed=-1"]),
    ("device=tpu", ["device='tpu'", "auto, cpu, cuda"]),
    ("penalty.l1=-0.1", ["penalty.l1=-0.1", "at least 0"]),
    ("dataset.val_fraction=1.5", ["dataset.val_fraction=1.5"]),
    ("dataset.batch_size=0", ["dataset.batch_size=0"]),
    ("trainer.checkpoint.monitor=val/f2", ["trainer.checkpoint.monitor", "did you mean 'val/f1'?"]),
    # types and ranges of the open part
    ("optim.lr=-1", ["optim.lr=-1", "at least 0"]),
    ("optim.lr=fast", ["optim.lr='fast'", "a number"]),
    ("optim.lr=nan", ["optim.lr=nan"]),
    ("optim.momentum=1.5", ["optim.momentum=1.5", "at most 1"]),
    ("optim.nesterov=1", ["optim.nesterov=1", "true or false"]),
    ("optim.nesterov=true optim.momentum=0", ["optim.nesterov=true", "optim.momentum above 0"]),
    ("optim=adam optim.betas=[2,0.9]", ["optim.betas=[2,0.9]", "below 1"]),
    ("optim=adam optim.betas=0.9", ["optim.betas=0.9", "a list of 2", "[0.9,0.999]"]),
    ("scheduler=step scheduler.step_size=0", ["scheduler.step_size=0", "at least 1"]),
    ("scheduler=exponential scheduler.gamma=1.2", ["scheduler.gamma=1.2", "at most 1", "scheduler=lambda"]),
    ("scheduler=multistep scheduler.milestones=[20,10]", ["[20,10]", "above the one before"]),
    ("scheduler=plateau scheduler.monitor=val/acc", ["val/acc", "did you mean 'val/accuracy'?"]),
    ("scheduler=plateau scheduler.monitor=test/loss", ["test/loss chooses here", "use val/loss"]),
    ("trainer.checkpoint.monitor=test/f1", ["trainer.checkpoint.monitor='test/f1'", "use val/f1"]),
    ("scheduler=plateau scheduler.monitor=val/mae", ["val/mae", "but of regression", "val/accuracy"]),
    ("scheduler=plateau scheduler.interval=step", ["scheduler.interval='step'", "scheduler.interval=epoch"]),
    ("scheduler=plateau scheduler.monitor=val/accuracy scheduler.mode=min", ["scheduler.mode", "scheduler.mode=auto"]),
    ("scheduler=plateau dataset.val_fraction=0", ["val/loss", "val_fraction=0"]),
    ("scheduler=onecycle scheduler.pct_start=1.0", ["scheduler.pct_start", "below 1"]),
    ("scheduler=onecycle scheduler.anneal_strategy=cosine", ["one of cos, linear", "did you mean 'cos'?"]),
    ("scheduler=onecycle optim=adagrad", ["torch.optim.Adagrad has not", "scheduler.cycle_momentum=false"]),
    ("scheduler=random scheduler.factor=0", ["scheduler.factor=0 (command line)", "above 0 and at most 1"]),
    ("scheduler=random scheduler.factor=1.5", ["scheduler.factor=1.5", "at most 1"]),
    ("scheduler=random scheduler.boundary=0", ["scheduler.boundary=0", "at least 1"]),
    ("scheduler=linear_warmup_cosine scheduler.warmup_fraction=1.1", ["scheduler.warmup_fraction=1.1", "at most 1"]),
    ("scheduler=linear_warmup_cosine scheduler.warmup_fraction=-0.1", ["scheduler.warmup_fraction=-0.1", "at least 0"]),
    ("scheduler=random scheduler.direction=up", ["decay, accelerate, both"]),
    ("scheduler=lambda scheduler.lr_lambda='epoch**-0.5'", ["epoch**-0.5", "at epoch 0", "(epoch + 1)"]),
    ("scheduler=lambda scheduler.lr_lambda='__import__(1)'", ["__import__"]),
    ("scheduler=lambda scheduler.lr_lambda='0.9**step'", ["'step' is no name here", "the variable is epoch"]),
    (
        f"{SEQUENCE}=[{{_target_:{TORCH}.ReduceLROnPlateau}},{{_target_:{TORCH}.StepLR,step_size:3}}]",
        ["scheduler.schedulers.0._target_", "follows a metric", "use it alone, scheduler=plateau"],
    ),
    (
        f"{SEQUENCE}=[{{_target_:{TORCH}.StepLR,step_size:0,interval:step}},{{_target_:{TORCH}.LinearRL}}]",
        [
            "scheduler.schedulers.0.step_size=0 (command line): must be a whole number of at least 1",
            f"scheduler.schedulers.0.interval='step' (command line): {TORCH}.StepLR has no argument interval",
            f"{TORCH} has no LinearRL; did you mean",
        ],
    ),
    (
        f"{SEQUENCE}=[{{_target_:dltrain.schedulers.LambdaLR,lr_lambda:'0.9**step'}},{{_target_:{TORCH}.CyclicLR,"
        "base_lr:0,max_lr:1},{_target_:dltrain.schedulers.RandomLR}] optim=adagrad",
        [
            "scheduler.schedulers.0.lr_lambda='0.9**step'",
            "scheduler.schedulers.1.cycle_momentum=false",
            "scheduler.milestones=[3] (command line): must name where each of the 3 schedulers but the first begins",
        ],
    ),
    (
        f"{SEQUENCE}=[{{_target_:{TORCH}.SequentialLR,milestones:[2],schedulers:[{{_target_:{TORCH}.ConstantLR}},"
        f"{{_target_:{TORCH}.ConstantLR}}]}},{{_target_:{TORCH}.ChainedScheduler,"
        f"schedulers:[{{_target_:{TORCH}.ConstantLR}}]}}]",
        [
            f"scheduler.schedulers.0._target_='{TORCH}.SequentialLR' (command line): changes too early within another",
            f"scheduler.schedulers.1._target_='{TORCH}.ChainedScheduler' (command line): cannot begin at a milestone",
        ],
    ),
    (f"scheduler._target_={TORCH}.LRScheduler", ["is what schedulers inherit from"]),
    ("optim._target_=torch.optim.LBFGS", ["computes the loss several times a step", "use optim=adamw"]),
    ("optim._target_=torch.optim.SparseAdam", ["takes sparse gradients alone", "use optim=adamw"]),
    (
        "optim=adam optim.fused=false +optim.capturable=true device=cpu",
        ["optim: it cannot take a step on cpu: If capturable"],
    ),
    ("+optim.differentiable=true optim.fused=false", ["optim: it cannot take a step on", "in-place operation"]),
    (
        "optim=sgd optim._target_=torch.optim.Muon ~optim.fused ~optim.dampening",
        ["optim: Muon only supports 2D parameters"],
    ),
    ("model.activation=rellu", ["model.activation='rellu'", "did you mean 'relu'?"]),
    ("model.pool=maximum", ["model.pool='maximum'", "max, average, none"]),
    ("model.padding=full", ["model.padding='full'", "same, valid"]),
    ("model.stride=2", ["model.padding='same'", "model.padding=1"]),
    ("model.pool_padding=2", ["model.pool_padding=2", "half of model.pool_kernel_size=2"]),
    ("model.dropout=1", ["model.dropout=1", "below 1"]),
    ("model.channels=32", ["model.channels=32", "a list", "[32,64]"]),
    ("model.channels={a:1}", ["model.channels={a:1} (command line)", "a list"]),
    ("optim.learning_rate=0.1", ["did you mean 'lr'?"]),
    ("optim.lr=${optim.l}", ["there is no key optim.l to refer to", "did you mean 'optim.lr'?"]),
    ("optim.lr=${oc.env:NOT_THERE}", ["NOT_THERE"]),
    ("scheduler=lambda scheduler.lr_lambda='9**9**9'", ["too large"]),
    ("model.channels=[8,-8]", ["model.channels=[8,-8]"]),
    ("model.kernel_size=big", ["model.kernel_size='big'", "a whole number"]),
    ("model.kernel_size=-1", ["model.kernel_size=-1", "at least 1"]),
    ("model.stride=2", ["model.padding='same'", "needs model.stride=1"]),
    ("model=mlp model.hidden_sizes=64", ["model.hidden_sizes=64", "a list", "[64,32]"]),
    ("model=mlp model.hidden_sizes=[1.5]", ["model.hidden_sizes=[1.5]", "a whole number"]),
    ("model=resnet18 model.weights=IMAGENET1K_V9", ["model.weights='IMAGENET1K_V9'", "did you mean 'IMAGENET1K_V1'?"]),
    ("model=lstm model.readout=first", ["model.readout='first'", "last, mean, max"]),
    ("+loss.weight=8", ["loss.weight=8", "a list", "[1,8]"]),
    ("+loss.weight=[1,a]", ["loss.weight=[1,'a']", "each a number of at least 0"]),
    ("+loss.weight=[1,8]", ["loss.weight=[1,8]", "10 classes", "in this order: 0, 1, 2"]),
    ("+loss.weight=[0,0,0,0,0,0,0,0,0,0]", ["loss.weight=[0,0,", "no class would count: give one a number above 0"]),
    ("loss=bce_with_logits +loss.pos_weight=[3]", ["loss.pos_weight=[3]: the data set has 10 classes"]),
    ("optim.lr=[0.1,0.2]", ["optim.lr=[0.1,0.2]", "a number"]),
    ("loss.reduction=sum", ["loss.reduction='sum'", "mean"]),
    ("dataset=image_folder dataset.root=. dataset.cache=ram", ["dataset.cache='ram'", "auto, memory, disk, none"]),
    ("dataset=image_folder", ["dataset.root (dltrain's conf/dataset/image_folder.yaml, line 3)", "dataset.root=..."]),
    ("dataset=shards", ["dataset.root (dltrain's conf/dataset/shards.yaml, line 6)", "dataset.root=..."]),
    ("dataset=image_folder dataset.root=. dataset.channels=2", ["dataset.channels=2", "one of 1, 3"]),
    ("dataset=image_folder dataset.root=. dataset.image_size=0", ["dataset.image_size=0", "at least 1"]),
    ("dataset=image_folder dataset.root=. dataset.image_size=[4]", ["dataset.image_size=[4]", "a list of 2"]),
    ("dataset=image_folder dataset.root=. dataset.image_size=big", ["dataset.image_size='big'", "a whole number"]),
    ("dataset=image_folder dataset.root=. dataset.white=0", ["dataset.white=0", "above 0, or auto"]),
    ("dataset=table dataset.path=x dataset.target=y dataset.task=ranking", ["dataset.task='ranking'", "or null"]),
    ("dataset=table dataset.path=x dataset.target=y dataset.max_categories=0", ["max_categories=0", "at least 1"]),
    ("dataset=sunspots dataset.window=0", ["dataset.window=0", "at least 1"]),
    ("dataset=sunspots dataset.window=2.5", ["dataset.window=2.5", "a whole number"]),
    ("dataset=sunspots dataset.horizon=0", ["dataset.horizon=0", "at least 1"]),
    ("dataset=shards dataset.root=. dataset.shuffle_window=0", ["dataset.shuffle_window=0", "at least 1"]),
    ("dataset=shards dataset.root=. dataset.shufle_window=3", ["did you mean 'shuffle_window'?"]),
    ("scheduler=lambda scheduler.lr_lambda='1-epoch'", ["at epoch 2 it is -1"]),
    ("scheduler=plateau scheduler.monitor=accuracy", ["did you mean 'val/accuracy'?"]),
    ("scheduler=onecycle scheduler.interval=epoch trainer.epochs=1", ["lowest rate", "scheduler.interval=step"]),
    ("trainer.early_stopping.min_delta=0.1", ["no effect", "trainer.early_stopping.patience=5"]),
    ("trainer.early_stopping.monitor=val/loss", ["no effect", "trainer.early_stopping.patience=5"]),
    ("trainer.accumulate=33", ["trainer.accumulate=33", "dataset.batch_size=32"]),
    ("dataset.augment.corp=1", ["dataset.augment.corp=1", "did you mean 'crop'?"]),
    ("dataset.augment={corp:1}", ["there is no augmentation corp", "did you mean 'crop'?"]),
    ("dataset.augment.crop=1.5", ["dataset.augment.crop=1.5 (command line)", "whole number"]),
    ("dataset.augment.flip=1", ["dataset.augment.flip=1", "true or false"]),
    ("dataset.augment.cutout=true", ["dataset.augment.cutout=true", "whole number"]),
    ("dataset.augment=flip", ["dataset.augment='flip' (command line)", "a mapping {...}"]),
    ("dataset.augment.contrast=2", ["dataset.augment.contrast=2", "at most 1"]),
    ("scheduler=lambda scheduler.lr_lambda='math.exp(-epoch)'", ["write exp(...) without math and a dot"]),
    ("scheduler=lambda scheduler.lr_lambda='2<<epoch'", ["LShift is not arithmetic", "it takes numbers, epoch, + - *"]),
    ("scheduler=lambda scheduler.lr_lambda='exp(-epoch'", ["this is no expression: '(' was never closed"]),
    ("optim.lr=${optim.lr}", ["optim.lr='${optim.lr}' (command line): refers to itself"]),
    ("optim.lr=${eval:1+1}", ["there is no ${eval:...}", "${oc.env:NAME}"]),
    ("+model.bias=${data.num_output}", ["there is no key data.num_output", "did you mean 'data.num_outputs'?"]),
    ("+model.class=${data.num_outputs}", ["model.class=${...} (command line)", "has no argument class"]),
    # targets
    ("model._target_=os.system", ["os.system is a part of Python itself"]),
    ("loss._target_=builtins.eval", ["builtins.eval", "refused"]),
    ("optim._target_=posix.system", ["posix.system", "refused"]),
    ("dataset._target_=subprocess.run", ["subprocess.run", "refused"]),
    ("loss._target_=hydra.utils.get_method", ["hydra.utils.get_method", "refused"]),
    ("model._target_=torch.nn.modules.module.os.system", ["model._target_", "torch.nn.Module"]),
    ("model._target_=torch.hub.load", ["is a function, but not a torch.nn.Module"]),
    ("model._target_=torch.optim.SGD", ["is a class, but not a torch.nn.Module"]),
    ("optim._target_=torch.optim.SDG", ["did you mean 'torch.optim.SGD'?"]),
    ("optim._target_=torch.nn.Linear", ["not an optimizer", "torch.optim.SGD"]),
    ("optim._target_=torch.optm.SGD", ["torch has no optm", "did you mean 'torch.optim'?"]),
    ("optim._target_=trch.optim.SGD", ["neither a file trch.py", "did you mean 'torch'?"]),
    ("scheduler=step scheduler._target_=torch.optim.Adam", ["not a learning-rate scheduler"]),
    ("logger.csv._target_=dltrain.schedulers.RandomLR", ["not a logger with the methods close and log"]),
    ("+loss.weight._target_=os.getcwd", ["loss.weight._target_", "refused"]),
    ("+hydra.callbacks.x._target_=os.system", ["hydra.callbacks.x._target_", "refused"]),
    ("+model._partial_=true", ["model._partial_=true"]),
    ("model._target_=CNN", ["module.Class"]),
    # what needs the data, and is found before the first epoch all the same
    ("device=cuda:99", ["cuda:99", "no such device"]),
    ("dataset=image_folder dataset.root=nowhere", ["dataset.root='nowhere' (command line)", "no such folder"]),
    ("dataset=shards dataset.root=nowhere", ["dataset.root='nowhere' (command line)", "no such folder", "*.parquet"]),
    ("dataset=table dataset.path=no.csv dataset.target=x", ["dataset.path='no.csv' (command line)", "no such file"]),
    ("dataset.augment.crop=8", ["dataset.augment.crop=8", "below 8"]),
    ("model.dropout=${data.num_outputs}", ["model.dropout=10", "below 1"]),
    ("scheduler=step scheduler.gamma=${data.num_outputs}", ["scheduler.gamma=10", "use scheduler=lambda"]),
    ("model=lstm model.readout=${data.name}", ["model.readout='digits'", "one of last, mean, max"]),
    ("dataset=mnist", ["train-images-idx3-ubyte", "data/MNIST/raw", "dataset.download=true"]),
    ("dataset=diabetes model=cnn", ["model=cnn", "table", "models that fit: mlp"]),
    ("model=lenet", ["lenet", "16×16", "8×8"]),
    ("model.channels=[8,8,8,8,8]", ["too small", "model.channels"]),
    ("loss=mse", ["MSELoss", "classification", "cross_entropy"]),
    ("scheduler=onecycle scheduler.interval=epoch trainer.epochs=2 scheduler.pct_start=0.5", ["interval=step"]),
    ("hydra.run.dir=/proc/nowhere", ["/proc/nowhere", "hydra.run.dir"]),
    # sweeps: each value is checked before the first job
    ("-m sweep.on_failure=stop model=cnn,mlpp", ["model has no option mlpp", "did you mean 'mlp'?"]),
    ("-m sweep.on_failure=stop optim.lr=0.1,-1", ["optim.lr=-1", "at least 0"]),
    ("-m optim.lr=interval(0,1)", ["optim.lr=interval(0,1)", "commas, or range(...)"]),
    ("-m sweep.on_failure=stop model.padding=same model.stride=1,2", ["model.padding='same'", "needs model.stride=1"]),
    ("-m sweep.on_failure=stop scheduler=step,none scheduler.gamma=0.1,0.2", ["scheduler=none has no key gamma"]),
    (
        "-m sweep.on_failure=stop dataset=digits,image_folder",
        ["dataset.root (dltrain's conf/dataset/image_folder.yaml, line 3)"],
    ),
    ("-m model=glob(x*)", ["names none of the options cnn, gru"]),
    ("-m trainer.epoch=1,2", ["trainer.epoch=1", "did you mean 'trainer.epochs'?"]),
    ("-m seed=range(0,1,0)", ["seed=range(0,1,0) (command line)", "a step other than 0: range(1,10)"]),
    ("seed=shuffle(range(0,1,0))", ["a step other than 0"]),
    ("-m optim.lr=range(1,5,nan)", ["optim.lr=range(1,5,nan)", "a range takes numbers"]),
    ("-m optim.lr=range(0,inf)", ["optim.lr=range(0,inf)", "a range takes numbers"]),
    ("-m seed=range(0,10000000)", ["more than 1,000,000 values"]),
    ("-m seed=range(5,1)", ["seed=range(5,1) (command line): this names no value"]),
    ("-m seed=choice()", ["this is written seed=choice(a,b)"]),
    ("seed=int(abc)", ["this is written seed=int(1.0)"]),
    ("-m seed=1,2 hydra.sweep.dir=???", ["hydra.sweep.dir='???' (command line): names no folder"]),
    ("-m seed=1,2 hydra.sweep.subdir=???", ["names no folder: write hydra.sweep.subdir='${hydra.job.num}'"]),
    ("-m seed=1,2 hydra.sweep.subdir=x", ["subdir=x: would be the folder of every job", "${hydra.job.num}"]),
    ("-m seed=1,2 hydra.sweep.subdir=${optim.lr}", ["jobs 0 and 1 would share the folder", "${hydra.job.num}"]),
    ("-m seed=1 hydra.sweep.subdir=..", ["which is no folder within the sweep's", "${hydra.job.num}"]),
    # what Hydra, OmegaConf, torch and numpy would say in words of their own
    ("hydra.job.name=???", ["hydra.job.name (command line): has no default: add hydra.job.name=... to the command"]),
    ("hydra.job.chdir=??? hydra.job.env_copy=???", ["hydra.job.chdir (command line): has no", "hydra.job.env_copy"]),
    ("hydra.output_subdir=???", ["hydra.output_subdir", "add hydra.output_subdir=... to the command"]),
    ("hydra.run.dir=???", ["hydra.run.dir='???' (command line): names no folder: write hydra.run.dir=my_run"]),
    ("hydra.run.dir=null", ["hydra.run.dir cannot be null"]),
    ("hydra.run.dir=[a]", ["hydra.run.dir=[a] (command line): it must be text"]),
    ("hydra.run=x", ["hydra.run=x (command line): it holds further keys"]),
    ("hydra.searchpath=[x://y]", ["hydra.searchpath takes folders", "but no x://"]),
    ("hydra.verbose=[5]", ["hydra.verbose=[5] (command line)", "the name of a logger"]),
    (f"dataset.split_seed={LONG}", [f"dataset.split_seed={LONG} (command line): is too large", "9223372036854775807"]),
    (f"penalty.l1={LONG}", [f"penalty.l1={LONG} (command line): is too large"]),
    (f"model.channels=[8,{LONG}]", [f"model.channels.1={LONG} (command line): is too large"]),
    (f"-m hydra/sweeper=optuna seed=1,2 hydra.sweeper.seed={LONG}", ["hydra.sweeper.seed", "is too large"]),
    ("trainer.threads=9223372036854775807", ["trainer.threads=9223372036854775807", "at most 4096"]),
    ("model.kernel_size=9223372036854775807", ["model.kernel_size=9223372036854775807", "at most 1048576"]),
    ("model=lstm model.num_layers=100000", ["model.num_layers=100000", "at most 1000"]),
    ("model.channels=[1048576] model.kernel_size=1048576", ["model: there is no memory for its weights"]),
    (f"optim.lr={'1' * 5000}", ["optim.lr=111"]),
    (f"+optim.x={'[' * 300}{']' * 300}", ["(command line): more than 50 lists and mappings lie within each other"]),
    (f"+optim.x={'{a:' * 3000}1{'}' * 3000}", ["(command line): more than 50 lists and mappings"]),
    ("+optim={1:2}", ["optim.1=2 (command line): the name of an argument is text"]),
    ("seed=${hydra:nope}", ["seed='${hydra:nope}' (command line): Hydra has no key hydra.nope"]),
]  # fmt: skip

BOMB = [f"k{n}: &k{n} [{','.join([f'*k{n - 1}' if n else 'x'] * 9)}]" for n in range(9)]  # stands for 9**9 values
CHAIN = [f"k{n}: &k{n} [{f'*k{n - 1}' if n else 'x'}]" for n in range(60)]  # each a level deeper than the one before
IN_FILES = [
    # the group of my_conf/GROUP/mine.yaml, its lines, and fragments of the message
    (
        "optim",
        ["_target_: torch.optim.SGD", "lr: 0.1", "momentun: 0.9"],
        ["optim.momentun=0.9 (my_conf/optim/mine.yaml, line 3)", "did you mean 'momentum'?"],
    ),
    (
        "optim",
        ["_target_: torch.optim.SGD", "lr: 0.1", "momentum: '0.9'"],
        ["optim.momentum='0.9' (my_conf/optim/mine.yaml, line 3)", "a number"],
    ),
    ("optim", ["_target: torch.optim.SGD"], ["optim._target_ (my_conf/optim/mine.yaml)", "in the place of _target"]),
    ("optim", ["optim:", "  _target_: torch.optim.SGD"], ["optim._target_", "too deep, in optim.optim"]),
    ("optim", ["_target_: torch.optim.SGD", "lr:0.1"], ["my_conf/optim/mine.yaml, line 2", "a space after it"]),
    ("optim", ["lr: 'a", "momentum: 0"], ["my_conf/optim/mine.yaml, line 1", "a quote is opened and not closed"]),
    (
        "loss",
        ["_target_: torch.nn.CrossEntropyLoss", "weight:", "- _target_: os.system"],
        ["loss.weight.0._target_='os.system' (my_conf/loss/mine.yaml, line 2)"],
    ),
    (
        "experiment",
        ["trainer:", "  epochs: 3"],
        ["experiment.trainer={epochs:3} (my_conf/experiment/mine.yaml, line 1)", "# @package _global_"],
    ),
    (
        "experiment",
        ["# @package _global_", "optim.lr: 0.3"],
        ["(my_conf/experiment/mine.yaml, line 2)", "no dots in its keys: write optim: {lr: 0.3}"],
    ),
    (
        "experiment",
        ["# @package _global_", "model: lstm"],
        ["model='lstm' (my_conf/experiment/mine.yaml, line 2)", "- override /model: OPTION"],
    ),
    (
        "experiment",
        ["# @package _global_", "defaults:", "  - /model: lstm"],
        ["my_conf/experiment/mine.yaml, line 3", "- override /model: OPTION"],
    ),
    (
        "experiment",
        ["# @package _global_", "defaults:", "  - override model: lstm"],
        ["my_conf/experiment/mine.yaml, line 3", "with a slash, - override /model: OPTION"],
    ),
    (
        "experiment",
        ["# @package _global_", "hydra:", "  run:", "    dirr: x"],
        ["my_conf/experiment/mine.yaml, line 4", "there is no key dirr here", "did you mean 'dir'?"],
    ),
    (
        "optim",
        ["_target_: torch.optim.SGD", "lr: 0.1", "lr: 0.2"],
        ["my_conf/optim/mine.yaml, line 3", "the key lr is there twice, before in line 2"],
    ),
    ("optim", ["_target_: torch.optim.SGD", "\tlr: 0.1"], ["my_conf/optim/mine.yaml, line 2", "tab", "spaces"]),
    ("optim", ["betas: [1, 2"], ["my_conf/optim/mine.yaml, line", "no YAML", "a bracket is opened and not closed"]),
    ("optim", ["lr: 0.1: 2"], ["my_conf/optim/mine.yaml, line 1", "second colon"]),
    ("optim", ["- lr", "- 0.1"], ["(my_conf/optim/mine.yaml, line 1)", "key: value"]),
    ("optim", ["lr: 0.1"], ["optim._target_", "is missing", "torch.optim.SGD"]),
    ("optim", ["_target_: torch.optim.SGD", "_args_: [1]"], ["optim._args_=[1]", "line 2", "with its name"]),
    (
        "trainer",
        ["defaults: [default, _self_]", "epoch: 3", "precision: fp8"],
        ["2 problems", "trainer.epoch=3 (my_conf/trainer/mine.yaml, line 2)", "trainer.precision='fp8'", "line 3"],
    ),
    ("trainer", ["epochs: 3"], ["lacks precision, accumulate", "defaults: [default, _self_]"]),
    (
        "experiment",
        ["# @package _global_", "trainer:", "  early_stoping:", "    patience: 3", "optim:", "  lr: -1"],
        [
            "(my_conf/experiment/mine.yaml, line 3)",
            "did you mean 'trainer.early_stopping'?",
            "optim.lr=-1 (my_conf/experiment/mine.yaml, line 6)",
        ],
    ),
    (
        "experiment",
        ["# @package _global_", "defaults:", "  - override /model: lsmt"],
        ["my_conf/experiment/mine.yaml, line 3", "model has no option lsmt", "did you mean 'lstm'?"],
    ),
    (
        "experiment",
        ["# @package _global_", "defaults:", "  - override /modle: lstm"],
        ["my_conf/experiment/mine.yaml, line 3", "no group modle", "did you mean 'model'?"],
    ),
    (
        "scheduler",
        ["_target_: torch.optim.lr_scheduler.StepLR", "step_size: ten"],
        ["scheduler.step_size='ten'", "scheduler.interval", "epoch, step"],
    ),
    (
        "scheduler",
        ["_target_: torch.optim.lr_scheduler.StepLR", "interval: epoch"],
        ["scheduler.step_size", "StepLR needs it: add scheduler.step_size=..."],
    ),
    (
        "scheduler",
        ["_target_: torch.optim.lr_scheduler.ReduceLROnPlateau", "interval: epoch"],
        ["scheduler.monitor", "add scheduler.monitor=val/loss"],
    ),
    (
        "scheduler",
        ["_target_: torch.optim.lr_scheduler.OneCycleLR", "interval: step", "max_lr: ${optim.lrr}"],
        ["scheduler.max_lr='${optim.lrr}' (my_conf/scheduler/mine.yaml, line 3)", "did you mean 'optim.lr'?"],
    ),
    (
        "loss",
        ["_target_: torch.nn.CrossEntropyLoss", "weight:", "  _target_: posix.system", "  command: touch stolen"],
        ["loss.weight._target_='posix.system' (my_conf/loss/mine.yaml, line 3)", "refused"],
    ),
    (
        "loss",
        ["_target_: torch.nn.CrossEntropyLoss", "weight: [1, -2]"],
        ["loss.weight=[1,-2] (my_conf/loss/mine.yaml, line 2)", "at least 0", "one for each class"],
    ),
]
SGD = "_target_: torch.optim.SGD"
IN_FILES += [
    ("optim", [SGD, "1: 2"], ["optim.1=2 (my_conf/optim/mine.yaml, line 2): the name of an argument is text"]),
    ("optim", [SGD, "true: 2"], ["optim.true=2 (my_conf/optim/mine.yaml, line 2): the name of an argument"]),
    ("optim", [SGD, "null: 2"], ["my_conf/optim/mine.yaml, line 2: a key is text: put this one in quotes"]),
    ("optim", [SGD, "{a: 1}: 2"], ["my_conf/optim/mine.yaml, line 2: a key is text"]),
    ("experiment", ["# @package _global_", "1: 2"], ["1=2 (my_conf/experiment/mine.yaml, line 2): dltrain has no key"]),
    ("experiment", ["defaults: [{1: 2}]"], ["my_conf/experiment/mine.yaml, line 1: defaults is a list"]),
    ("experiment", ["defaults: 5"], ["my_conf/experiment/mine.yaml, line 1: defaults is a list, each entry after a"]),
    (
        "experiment",
        ["# @package _global_", "trust: {a: 1}"],
        ["my_conf/experiment/mine.yaml: it has keys where a list"],
    ),
    ("optim", [SGD, f"lr: {'1' * 5000}"], ["my_conf/optim/mine.yaml: a number has more than 4,300 digits"]),
    (
        "optim",
        [SGD, "x: &a [*a]"],
        ["my_conf/optim/mine.yaml, line 2: the alias *a stands within what it is to repeat"],
    ),
    ("optim", [SGD, "x: &a {b: *a}"], ["my_conf/optim/mine.yaml, line 2: the alias *a stands within"]),
    ("optim", [SGD, f"x: {'[' * 3000}{']' * 3000}"], ["my_conf/optim/mine.yaml, line 2: more than 50 lists and mapp"]),
    ("optim", [SGD, *BOMB], ["my_conf/optim/mine.yaml, line 6: its aliases repeat more than 10,000 values"]),
    ("experiment", ["# @package _global_", *CHAIN], ["line 51: more than 50 lists and mappings lie within each other"]),
]
MODULE = "from torch import nn\nclass Net(nn.Module):\n"
OF_THE_USER = [
    # the user's files, of which mine.py is to have the class Net, and fragments of the message
    ({}, ["model._target_='mine.Net' (my_conf/model/mine.yaml, line 1)", "neither a file mine.py"]),
    (
        {"mine.py": "import nothing_like_this\n"},
        ["No module named 'nothing_like_this' in mine.py, line 1", "pip install nothing_like_this"],
    ),
    (
        {
            "mine.py": "import helper\n",
            "helper.py": "try:\n  1 / 0\nexcept Exception as error:\n  raise RuntimeError('outer') from error\n",
        },
        ["ZeroDivisionError: division by zero in helper.py, line 2"],
    ),
    ({"mine.py": "class Net(\n"}, ["SyntaxError", "mine.py, line 1"]),
    ({"mine.py": "import sys\nsys.exit(3)\n"}, ["importing mine ends the process"]),
    ({"mine.py": "class Ned:\n  pass\n"}, ["mine has no Net", "did you mean 'mine.Ned'?", "mine.py"]),
    ({"mine.py": "class Net:\n  pass\n"}, ["is a class, but not a torch.nn.Module"]),
    ({"mine.py": "Net = 3\n"}, ["is an int, not a torch.nn.Module"]),
    ({"mine.py": "from os import system as Net\n"}, ["posix.system is a part of Python itself"]),
    (
        {"mine.py": MODULE + "  def __init__(self, num_classes: int, width: int, depth: int):\n    pass\n"},
        ["model.width='wide' (my_conf/model/mine.yaml, line 3)", "a whole number", "model.depth", "mine.Net needs it"],
    ),
    (
        {"mine.py": MODULE + "  def __init__(self, num_classes, widths=3):\n    pass\n"},
        ["mine.Net has no argument width", "did you mean 'widths'?"],
    ),
]


def requires_clean(outcome, fragments, left, expected):
    assert outcome.code == 2, outcome.stderr
    assert outcome.result["status"] == "invalid"
    assert all(problem in outcome.stderr for problem in outcome.result["problems"])
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert left == expected


@pytest.mark.parametrize(("typed", "fragments"), TYPED, ids=[typed for typed, _ in TYPED])
def test_a_mistake_on_the_command_line(dltrain, tmp_path, typed, fragments):
    outcome = dltrain(*typed.split())
    requires_clean(outcome, fragments, list(tmp_path.iterdir()), [])


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("group", "lines", "fragments"), IN_FILES, ids=[case[2][0][:70] for case in IN_FILES])
def test_a_mistake_in_a_file(dltrain, tmp_path, group, lines, fragments):
    files = {f"my_conf/{group}/mine.yaml": "\n".join(lines) + "\n"}
    write(tmp_path, files)
    outcome = dltrain("--config-dir", "my_conf", f"{group}=mine")
    requires_clean(outcome, fragments, files_in(tmp_path), set(files))


@pytest.fixture
def _fresh_modules(monkeypatch):
    """The modules ``mine`` and ``helper`` of one test are not those of another."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)
    yield
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_fresh_modules")
@pytest.mark.parametrize(("files", "fragments"), OF_THE_USER, ids=[case[1][0][:70] for case in OF_THE_USER])
def test_a_mistake_in_a_class_of_the_users_own(dltrain, tmp_path, files, fragments):
    yaml = "_target_: mine.Net\nnum_classes: ${data.num_outputs}\nwidth: wide\n"
    write(tmp_path, files | {"my_conf/model/mine.yaml": yaml})
    outcome = dltrain("--config-dir", "my_conf", "model=mine")
    requires_clean(outcome, fragments, files_in(tmp_path), {*files, "my_conf/model/mine.yaml"})


LOGS = "    def log(self, row):\n        pass\n    def close(self, result):\n        pass\n"
INIT = "    def __init__(self, {}):\n        pass\n"
LOGGERS = [
    # lines of a logger class, and fragments of the message
    (INIT.format("folder, config"), ["is a class, but not a logger", "methods close and log"]),
    (INIT.format("folder, config") + LOGS, ["takes 2", "(self, folder, config, history, ...)"]),
    (INIT.format("*, folder, config, history") + LOGS, ["takes 0", "(self, folder, config"]),
    (LOGS, ["takes 0", "__init__(self, folder, config, history, ...)"]),
    (LOGS.replace(", row", ""), ["methods close and log, of one argument"]),
]  # fmt: skip


@pytest.mark.usefixtures("_fresh_modules")
@pytest.mark.parametrize(("lines", "fragments"), LOGGERS, ids=[case[1][0] for case in LOGGERS])
def test_a_logger_takes_what_dltrain_hands_over(dltrain, tmp_path, lines, fragments):
    files = {"my_conf/logger/mine.yaml": "mine:\n  _target_: mine.Log\n", "mine.py": f"class Log:\n{lines}"}
    write(tmp_path, files)
    outcome = dltrain("--config-dir", "my_conf", "logger=mine")
    where = "logger.mine._target_='mine.Log' (my_conf/logger/mine.yaml, line 2)"
    requires_clean(outcome, [where, *fragments], files_in(tmp_path), set(files))


@pytest.mark.usefixtures("_fresh_modules")
@pytest.mark.parametrize("lines", ["*arguments", "folder, config, history, name='x'", "a, b, *rest"])
def test_a_logger_may_name_what_it_is_handed_as_it_likes(dltrain, tmp_path, lines):
    code = f"class Log:\n    def __init__(self, {lines}):\n        pass\n{LOGS}"
    write(tmp_path, {"my_conf/logger/mine.yaml": "mine:\n  _target_: mine.Log\n", "mine.py": code})
    outcome = dltrain("--config-dir", "my_conf", "logger=mine", "trainer.epochs=1", "dataset.limit=8")
    assert (outcome.code, "left out" in outcome.stderr) == (0, False), outcome.stderr


OPTIMIZER = "import torch\nclass Opt(torch.optim.Optimizer):\n    def __init__(self{}):\n        pass\n"


@pytest.mark.usefixtures("_fresh_modules")
@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (", lr", ["optim.lr=0.1", "called with (params, ...)", "let it come behind"]),
        ("", ["optim._target_='mine.Opt'", "takes 0", "__init__(self, params, ...)"]),
    ],
)
def test_an_optimizer_takes_the_parameters_first(dltrain, tmp_path, arguments, fragments):
    files = {"my_conf/optim/mine.yaml": "_target_: mine.Opt\nlr: 0.1\n", "mine.py": OPTIMIZER.format(arguments)}
    write(tmp_path, files)
    outcome = dltrain("--config-dir", "my_conf", "optim=mine")
    requires_clean(outcome, fragments, files_in(tmp_path), set(files))


@pytest.mark.usefixtures("_fresh_modules")
def test_an_optimizer_whose_step_needs_a_closure_is_refused(dltrain, tmp_path):
    code = "import torch\nclass Opt(torch.optim.SGD):\n    def step(self, closure):\n        return closure()\n"
    files = {"my_conf/optim/mine.yaml": "_target_: mine.Opt\nlr: 0.1\n", "mine.py": code}
    write(tmp_path, files)
    outcome = dltrain("--config-dir", "my_conf", "optim=mine")
    requires_clean(outcome, ["optim._target_=mine.Opt: its step needs a closure"], files_in(tmp_path), set(files))


@pytest.mark.usefixtures("_fresh_modules")
@pytest.mark.parametrize("group", ["model", "loss"])
def test_what_a_function_returns_must_be_a_module(dltrain, tmp_path, group):
    files = {f"my_conf/{group}/mine.yaml": "_target_: mine.make\n", "mine.py": "def make():\n    return 5\n"}
    write(tmp_path, files)
    outcome = dltrain("--config-dir", "my_conf", f"{group}=mine")
    requires_clean(
        outcome, [f"{group}._target_=mine.make: it returned 5", "torch.nn.Module"], files_in(tmp_path), set(files)
    )


@pytest.mark.usefixtures("_fresh_modules")
def test_what_is_refused_is_neither_imported_nor_called(dltrain, tmp_path):
    write(tmp_path, {"mine.py": "import os\nhelp = os\n"})
    for target in ("os.system", "mine.os.system", "mine.help.system", "posix.system", "antigravity.geohash"):
        keys = (f"model._target_={target}", "++model.command='touch stolen'")
        outcome = dltrain(*keys)
        assert (outcome.code, "is refused" in outcome.stderr) == (2, True), target
    assert files_in(tmp_path) == {"mine.py"}
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("typed", [["--config-name", "mine"], ["--config-name", "mine", "--cfg", "job"]], ids=str)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5\n", "line 1: it must hold keys, key: value"),
        ("abc\n", "line 1: it must hold keys"),
        ("- a\n", "line 1: it must hold keys"),
        ("a: &a [*a]\n", "line 1: the alias *a stands within what it is to repeat"),
        (f"a: {'[' * 3000}{']' * 3000}\n", "line 1: more than 50 lists and mappings"),
        ("\n".join(BOMB), "line 5: its aliases repeat more than 10,000 values"),
        ("defaults: [5]\n", "line 1: defaults is a list"),
    ],
    ids=["number", "text", "list", "recursive", "deep", "bomb", "defaults"],
)
def test_a_mistake_in_a_primary_file(dltrain, tmp_path, typed, text, told):
    write(tmp_path, {"my_conf/mine.yaml": text})
    outcome = dltrain("--config-dir", "my_conf", *typed)
    requires_clean(outcome, [f"my_conf/mine.yaml, {told}"], files_in(tmp_path), {"my_conf/mine.yaml"})


def test_what_aliases_are_for_is_read(dltrain, tmp_path):
    lines = ["# @package _global_", "trainer: &t", "  epochs: 1", "dataset: {limit: 8, <<: &d {batch_size: 4}}"]
    write(tmp_path, {"my_conf/experiment/mine.yaml": "\n".join([*lines, "model: {hidden_sizes: &h [4]}"])})
    outcome = dltrain("--config-dir", "my_conf", "experiment=mine", "--cfg", "job")
    assert (outcome.code, "batch_size: 4" in outcome.stdout) == (0, True), outcome.stderr


def test_all_problems_come_in_one_list_wherever_they_come_from(dltrain, tmp_path):
    (tmp_path / "my_conf" / "optim").mkdir(parents=True)
    (tmp_path / "my_conf" / "optim" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.1\nmomentun: 0.9\n")
    typed = "optim=mine model=lsmt trainer.epoch=3 trainer.accumulate=x penalty.l1=-1 hydra.run.dirr=y =="
    outcome = dltrain("--config-dir", "my_conf", *typed.split(), "dataset=image_folder")
    assert outcome.code == 2
    assert "8 problems" in outcome.stderr
    keys = ("momentun", "lsmt", "trainer.epoch", "trainer.accumulate", "penalty.l1", "dirr", "'=='", "dataset.root")
    for key in keys:
        assert outcome.stderr.count(key) >= 1
    assert "+" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["model=lsmt"], "did you mean 'lstm'?"),
        (["optim.lr=-1", "trainer.epoch=3"], "2 problems"),
        (["optim._target_=os.system"], "refused"),
        (["-m", "optim.lr=-0.1,-1"], "at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_real_command_says_the_same(shell, tmp_path, arguments, fragment):
    run = shell(*arguments)
    assert run.returncode == 2
    assert json.loads(run.stdout)["status"] == "invalid"
    assert "Traceback" not in run.stderr
    assert fragment in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_leaves_an_older_run_as_it_was(dltrain, tmp_path):
    assert dltrain("trainer.epochs=1", "dataset.limit=8", "hydra.run.dir=mine").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert dltrain("model.activation=rellu", "hydra.run.dir=mine").code == 2
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == before


BOM = "\ufeff# @package _global_\ntrainer:\n  epochs: 1\n"


def test_a_byte_order_mark_that_hides_a_header_is_named(dltrain, tmp_path):
    harmless = "\ufeff_target_: torch.optim.SGD\nlr: 0.001\n"
    write(tmp_path, {"my_conf/experiment/mine.yaml": BOM, "my_conf/optim/mine.yaml": harmless})
    outcome = dltrain("--config-dir", "my_conf", "experiment=mine")
    assert outcome.code == 2
    assert outcome.result["problems"] == [
        "my_conf/experiment/mine.yaml, line 1: save it as UTF-8 without a byte order mark,"
        " which hides # @package from Hydra"
    ]
    assert dltrain("--config-dir", "my_conf", "optim=mine", "trainer.epochs=1", "dataset.limit=8").code == 0


NO_PLACE = "defaults:\n  - override /model: mlp\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\ufeff\n# @package _global_\ntrainer:\n  epochs: 1\n", "line 1: save it as UTF-8 without a byte order mark"),
        ("\ufeff#@package _global_\n" + NO_PLACE, "line 1: save it as UTF-8 without a byte order mark"),
        (NO_PLACE, "line 1: begin the file with the line # @package _global_"),
    ],
    ids=["behind an empty line", "with options", "no header"],
)
def test_an_experiment_that_hydra_cannot_place_is_told_what_its_header_lacks(dltrain, tmp_path, text, told):
    write(tmp_path, {"my_conf/experiment/mine.yaml": text})
    (problem,) = dltrain("--config-dir", "my_conf", "experiment=mine").result["problems"]
    assert problem.startswith(f"my_conf/experiment/mine.yaml, {told}")


def test_a_variable_that_is_not_set_is_named(dltrain, monkeypatch):
    monkeypatch.delenv("RATE", raising=False)
    assert dltrain("optim.lr=${oc.env:RATE}").result["problems"] == [
        "optim.lr='${oc.env:RATE}' (command line): there is no environment variable RATE: set it, or write"
        " ${oc.env:RATE,VALUE}"
    ]


def test_a_number_from_the_environment_has_to_be_decoded(dltrain, monkeypatch):
    monkeypatch.setenv("RATE", "0.125")
    outcome = dltrain("optim.lr=${oc.env:RATE}", "trainer.epochs=${oc.env:RATE}", "seed=${optim.lr}")
    assert outcome.code == 2
    assert "optim.lr='0.125' (command line): must be a number" in outcome.stderr
    assert outcome.stderr.count('write "${oc.decode:${oc.env:RATE}}" for a number') == 2
    rate = 'optim.lr="${oc.decode:${oc.env:RATE}}"'
    run = dltrain(rate, "trainer.epochs=1", "dataset.limit=8", "hydra.run.dir=run")
    assert "lr: 0.125\n" in (run.folder / "config.yaml").read_text()
    assert dltrain("resume", "run", "trainer.epochs=2").code == 0
