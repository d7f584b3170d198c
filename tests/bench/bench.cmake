# Not part of a build by default: `ninja benches`, or tests/bench/run, which builds and runs everything.
add_custom_target(benches)
add_executable(make_checkpoint EXCLUDE_FROM_ALL bench/make_checkpoint.cpp)
target_link_libraries(make_checkpoint PRIVATE espalier::checkpoint fmt::fmt espalier::options)
add_executable(engine_bench EXCLUDE_FROM_ALL bench/engine_bench.cpp)
target_link_libraries(engine_bench PRIVATE espalier::evaluate espalier::profile espalier::score espalier::search espalier::model
    espalier::tokenizer fmt::fmt espalier::options)
add_dependencies(benches make_checkpoint engine_bench)
add_executable(rank_bench EXCLUDE_FROM_ALL bench/rank_bench.cpp)
target_link_libraries(rank_bench PRIVATE espalier::lowrank espalier::plan espalier::base espalier::options)
add_dependencies(benches rank_bench)
