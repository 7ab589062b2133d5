"""How near images are to the truth: `images` (PSNR, SSIM), `perceptual` (LPIPS), `moving` (where something moves).

Images are [..., H, W, 3] in [0, 1], masks bool [..., H, W], scores [...]: one number an image, NaN where its mask is
empty, so that a mean over frames is `scores.nanmean()`.
"""
