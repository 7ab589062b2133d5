// Reads a scene from a file, renders it forward and backward through the C ABI, writes the results: for check_arm64.py.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../renderers/csrc/api.h"

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    FILE* in = std::fopen(argv[1], "rb");
    FILE* out = std::fopen(argv[2], "wb");
    int64_t head[5];  // N, S, F, width, height
    if (!in || !out || std::fread(head, sizeof head, 1, in) != 1) return 2;
    const auto [N, S, F, W, H] = head;
    auto read = [&](size_t n) {
        std::vector<float> x(n);
        if (std::fread(x.data(), 4, n, in) != n) std::exit(2);
        return x;
    };
    auto write = [&](const std::vector<float>& x) { std::fwrite(x.data(), 4, x.size(), out); };
    auto means = read(3 * N), quats = read(4 * N), log_scales = read(3 * N), logits = read(N), sh = read(3 * S * N);
    auto pose = read(16), K = read(9), features = read(F * N);
    std::vector<float> means2d(2 * N), rows(ROW * N), image(3 * W * H), alpha(W * H), depth(W * H), maps(F * W * H);
    std::vector<int32_t> radii(2 * N);

    ProjectArgs p{};
    p.N = N, p.C = 1, p.S = S, p.width = W, p.height = H, p.threads = 2;
    p.near_plane = 0.01, p.far_plane = 1e10, p.eps2d = 0.3;
    p.means = means.data(), p.quats = quats.data(), p.log_scales = log_scales.data(), p.logit_opacities = logits.data();
    p.sh = sh.data(), p.world_to_cam = pose.data(), p.K = K.data();
    p.means2d = means2d.data(), p.rows = rows.data(), p.radii = radii.data();
    if (s4_project_f32(&p)) return 3;

    CompositeArgs c{};
    c.N = N, c.F = F, c.width = W, c.height = H, c.threads = 2, c.max_alpha = 0.999;
    c.means2d = means2d.data(), c.rows = rows.data(), c.features = features.data(), c.radii = radii.data();
    c.image = image.data(), c.alpha = alpha.data(), c.depth = depth.data(), c.features_out = maps.data();
    int64_t status = 0;
    void* view = s4_composite_f32(&c, 1, &status);
    if (status) return 3;

    const std::vector<float> ones(3 * W * H, 1.0f);
    std::vector<float> v_means2d(2 * N), v_rows(ROW * N), v_features(F * N);
    c.v_image = ones.data(), c.v_depth = ones.data();
    c.v_means2d = v_means2d.data(), c.v_rows = v_rows.data(), c.v_features = v_features.data();
    s4_composite_backward_f32(view, &c);
    s4_free_f32(view);
    std::vector<float> v_means(3 * N), v_quats(4 * N), v_log_scales(3 * N), v_logits(N), v_sh(3 * S * N), v_pose(16);
    p.v_means2d = v_means2d.data(), p.v_rows = v_rows.data();
    p.v_means = v_means.data(), p.v_quats = v_quats.data(), p.v_log_scales = v_log_scales.data();
    p.v_logit_opacities = v_logits.data(), p.v_sh = v_sh.data(), p.v_world_to_cam = v_pose.data();
    s4_project_backward_f32(&p);
    for (const auto* x : {&image, &depth, &maps, &v_means, &v_quats, &v_log_scales, &v_logits, &v_sh, &v_pose}) write(*x);
    return std::fclose(out) || s4_live_views() != 0;
}
