"""`python -m mmor.cli`, as torchrun and batch scripts start it."""

from mmor.cli import main

if __name__ == "__main__":
    main()
