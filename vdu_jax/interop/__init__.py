"""Read and write models of other libraries: diffusers, transformers, pytorch-fid."""
