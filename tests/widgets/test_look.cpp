// The look: contrast of every text role, colour maps, norms, numbers in a locale with a decimal comma, the heatmap's legend and keys.
#include "core/shapes.h"
#include "experts/selection.h"
#include "heatmap/heatmap_view.h"
#include "look/colour_map.h"
#include "look/error_text.h"
#include "look/format.h"
#include "look/theme.h"
#include "plan/compression_plan.h"

#include <qcustomplot.h>

#include <QApplication>
#include <QLocale>
#include <QSignalSpy>
#include <QTranslator>
#include <QtTest>

#include <cmath>
#include <limits>

using namespace espalier;

namespace
{

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Says sentences of errors in another language.
class OtherLanguage final : public QTranslator
{
public:
    QHash<QByteArray, QString> sentences;
    QString translate(const char* context, const char* source, const char*, int) const override
    {
        return qstrcmp(context, "errors") == 0 ? sentences.value(source) : QString();
    }
    bool isEmpty() const override { return false; }
};

ExpertScores scoresFor(const ModelShape& shape)
{
    ExpertScores scores;
    scores.method = "reap";
    scores.title = "REAP";
    for (const LayerShape& layer : shape.layers) {
        std::vector<double> row;
        for (int e = 0; e < layer.experts; ++e)
            row.push_back(1.0 + 0.1 * e + layer.index);
        scores.values.rows.push_back(row);
    }
    return scores;
}

// A view with scores and the identity plan, laid out and focused.
struct Heatmap {
    SelectionModel selection;
    HoverModel hover;
    HeatmapView view{&selection, &hover};
    ModelShape shape = test::evenShape(4, 8, 2);
    CompressionPlan plan = CompressionPlan::identity(shape);

    Heatmap()
    {
        view.resize(1200, 700);
        view.setShape(shape);
        view.setPlan(plan);
        view.setScores(scoresFor(shape));
        view.show();
    }
    void key(Qt::Key key, Qt::KeyboardModifiers modifiers = Qt::NoModifier) { QTest::keyClick(view.plot(), key, modifiers); }
};

}  // namespace

class LookTest final : public QObject
{
    Q_OBJECT
private slots:
    void errors_areSaidInTheLanguageOfTheWindow()
    {
        // As it comes from the engine: through JSON.
        const Error error = errorFromJson(toJson(badInput(
            "plan.example", "layer 3", {"Layer {layer} keeps {kept} of {experts} experts.", {{"layer", 3}, {"kept", 2}, {"experts", 16}}},
            {"Keep {floor} or more, {share:.1f} %, or pass --keep.", {{"floor", 4}, {"share", 25.04}}})));
        QCOMPARE(causeText(error), QStringLiteral("Layer 3 keeps 2 of 16 experts."));
        QCOMPARE(adviceText(error), QStringLiteral("Keep 4 or more, 25.0 %."));
        OtherLanguage language;
        // The places stand elsewhere.
        language.sentences.insert("Layer {layer} keeps {kept} of {experts} experts.",
                                  QStringLiteral("Von {experts} Experten behält Ebene {layer} {kept}."));
        language.sentences.insert("Plain.", QStringLiteral("Schlicht."));
        QApplication::installTranslator(&language);
        QCOMPARE(causeText(error), QString::fromUtf8("Von 16 Experten behält Ebene 3 2."));
        QCOMPARE(causeText(badInput("a.b", "c", "Plain.")), QStringLiteral("Schlicht."));
        QCOMPARE(adviceText(error), QStringLiteral("Keep 4 or more, 25.0 %."));
        // A translation that knows other places is not used.
        language.sentences.insert("Layer {layer} keeps {kept} of {experts} experts.", QStringLiteral("Ebene {ebene}."));
        QCOMPARE(causeText(error), QStringLiteral("Layer 3 keeps 2 of 16 experts."));
        QApplication::removeTranslator(&language);
    }

    void contrastOfText_data()
    {
        QTest::addColumn<bool>("dark");
        QTest::addColumn<bool>("more");
        QTest::newRow("light") << false << false;
        QTest::newRow("dark") << true << false;
        QTest::newRow("light, more contrast") << false << true;
        QTest::newRow("dark, more contrast") << true << true;
    }

    void contrastOfText()
    {
        QFETCH(bool, dark);
        QFETCH(bool, more);
        Theme look = dark ? Theme::darkTheme() : Theme::lightTheme();
        if (more) look = look.withMoreContrast();
        QStringList tooLow;
        for (const char* text : {"text", "muted", "accent", "estimate", "stale", "warning", "error"}) {
            for (const char* ground : {"base", "surface", "window", "control", "selection"}) {
                const QColor a = look.role(QString::fromLatin1(text));
                const QColor b = look.role(QString::fromLatin1(ground));
                QVERIFY2(a.isValid() && b.isValid(), text);
                const double ratio = contrastRatio(a, b);
                if (ratio < 4.5)
                    tooLow << QStringLiteral("%1 on %2: %3").arg(QLatin1String(text), QLatin1String(ground)).arg(ratio, 0, 'f', 2);
            }
        }
        QVERIFY2(tooLow.isEmpty(), qPrintable(tooLow.join(QStringLiteral("; "))));
        QVERIFY(contrastRatio(look.onAccent, look.accent) >= 4.5);
        // Borders of fields and the focus ring are not text: 3 to 1.
        QVERIFY(contrastRatio(look.fieldBorder, look.base) >= 3.0);
        QVERIFY(contrastRatio(look.focus, look.base) >= 3.0);
    }

    void contrastFormula()
    {
        QCOMPARE(contrastRatio(Qt::black, Qt::white), 21.0);
        QCOMPARE(contrastRatio(Qt::white, Qt::black), 21.0);
        QCOMPARE(contrastRatio(Qt::red, Qt::red), 1.0);
        QVERIFY(std::abs(relativeLuminance(QColor(0x77, 0x77, 0x77)) - 0.1845) < 0.0005);
    }

    void inkIsLegibleOnEveryColour()
    {
        for (const bool dark : {false, true}) {
            const Theme& look = dark ? Theme::darkTheme() : Theme::lightTheme();
            for (const ColourMap map : {ColourMap::Viridis, ColourMap::Cividis, ColourMap::Magma, ColourMap::Grey, ColourMap::Difference})
                for (int i = 0; i <= 100; ++i) {
                    const QColor cell = colourAt(map, i / 100.0, dark);
                    QVERIFY2(contrastRatio(inkOn(look, cell), cell) >= 3.0,
                             qPrintable(colourMapId(map) + QStringLiteral(" at %1 %").arg(i)));
                }
        }
    }

    void styleSheetIsFilledIn()
    {
        for (const Theme* look : {&Theme::lightTheme(), &Theme::darkTheme()}) {
            const QString sheet = styleSheetFor(*look);
            QVERIFY(!sheet.isEmpty());
            for (const QString& role : Theme::roleNames()) {
                QVERIFY2(look->role(role).isValid(), qPrintable(role));
                QVERIFY2(!sheet.contains(QStringLiteral("{%1}").arg(role)), qPrintable(role));
            }
        }
    }

    void colourMapEnds()
    {
        for (const ColourMap map : {ColourMap::Viridis, ColourMap::Cividis, ColourMap::Magma, ColourMap::Grey, ColourMap::Difference}) {
            for (const bool dark : {false, true}) {
                const std::vector<QColor>& stops = colourMapStops(map, dark);
                QVERIFY(stops.size() >= 2);
                QCOMPARE(colourAt(map, 0, dark), stops.front());
                QCOMPARE(colourAt(map, 1, dark), stops.back());
                QCOMPARE(colourAt(map, -3, dark), stops.front());
                QCOMPARE(colourAt(map, 7, dark), stops.back());
            }
            QCOMPARE(colourMapFromId(colourMapId(map)), map);
        }
        // Matplotlib's ends.
        QCOMPARE(colourAt(ColourMap::Viridis, 0), QColor(68, 1, 84));
        QCOMPARE(colourAt(ColourMap::Viridis, 1), QColor(253, 231, 37));
        QCOMPARE(colourMapFromId(QStringLiteral("nonsense")), ColourMap::Viridis);
    }

    void sequentialMapsRiseInLightness()
    {
        for (const ColourMap map : {ColourMap::Viridis, ColourMap::Cividis, ColourMap::Magma}) {
            double before = -1;
            for (int i = 0; i <= 64; ++i) {
                const double light = relativeLuminance(colourAt(map, i / 64.0));
                QVERIFY2(light >= before - 1e-3, qPrintable(colourMapId(map)));
                before = light;
            }
        }
    }

    void normalise_missingValuesStayMissing()
    {
        for (const Norm norm : {Norm::Linear, Norm::Log, Norm::Sqrt, Norm::Rank}) {
            for (const bool perLayer : {false, true}) {
                const NormedGrid grid = normalise({{{1, kNaN, 3}, {}, {kNaN, kNaN, kNaN}}}, {norm, 0, perLayer});
                QCOMPARE(grid.positions.rows.size(), std::size_t(3));
                QVERIFY(std::isnan(grid.positions.at(0, 1)));
                QVERIFY(grid.positions.rows[1].empty());
                for (int e = 0; e < 3; ++e)
                    QVERIFY(std::isnan(grid.positions.at(2, e)));
                QVERIFY(grid.positions.at(0, 0) >= 0 && grid.positions.at(0, 0) < grid.positions.at(0, 2) && grid.positions.at(0, 2) <= 1);
            }
        }
    }

    void normalise_equalValuesLieInTheMiddle()
    {
        for (const Norm norm : {Norm::Linear, Norm::Log, Norm::Sqrt, Norm::Rank}) {
            const NormedGrid grid = normalise({{{2, 2}, {2, 2}}}, {norm, 1, false});
            for (const auto& row : grid.positions.rows)
                for (const double x : row)
                    QCOMPARE(x, 0.5);
        }
        const NormedGrid zeros = normalise({{{0, 0, 0}}}, {Norm::Linear, 1, false});
        QCOMPARE(zeros.positions.at(0, 0), 0.5);
    }

    void normalise_logOfZeroAndNegative()
    {
        const NormedGrid grid = normalise({{{0, -1, 1, 10, 100}}}, {Norm::Log, 0, false});
        QCOMPARE(grid.belowFloor, 2);
        QCOMPARE(grid.positions.at(0, 0), NormedGrid::kBelowFloor);
        QCOMPARE(grid.positions.at(0, 1), NormedGrid::kBelowFloor);
        QCOMPARE(grid.positions.at(0, 2), 0.0);
        QVERIFY(std::abs(grid.positions.at(0, 3) - 0.5) < 1e-12);
        QCOMPARE(grid.positions.at(0, 4), 1.0);
        const NormedGrid none = normalise({{{0, 0}, {-2, 0}}}, {Norm::Log, 1, false});
        QVERIFY(!none.range.valid);
        QCOMPARE(none.belowFloor, 4);
    }

    void normalise_isInvertible()
    {
        const NormRange range{0.5, 40, true};
        for (const Norm norm : {Norm::Linear, Norm::Log, Norm::Sqrt})
            for (const double value : {0.5, 1.0, 7.0, 40.0})
                QVERIFY(std::abs(normValue(normPosition(value, range, norm), range, norm) - value) < 1e-9);
    }

    void numbersUnderGermanLocale()
    {
        const QLocale before;
        QLocale::setDefault(QLocale(QLocale::German, QLocale::Germany));
        const auto restore = qScopeGuard([&] { QLocale::setDefault(before); });
        const QChar minus(0x2212);
        QCOMPARE(format::withoutOptions("Put tokenizer.json there, or pass token ids with --ids."),
                 QStringLiteral("Put tokenizer.json there."));
        QCOMPARE(format::withoutOptions("Tokenise elsewhere and pass ids with --ids."), QString());
        QCOMPARE(format::withoutOptions("Use --force to replace it, or another name. Fetch it again."),
                 QStringLiteral("Another name. Fetch it again."));
        QCOMPARE(format::withoutOptions("4 of 6 layers are kept; --resume goes on from there."), QStringLiteral("4 of 6 layers are kept."));
        QCOMPARE(format::count(1080), QStringLiteral("1.080"));
        QCOMPARE(format::perplexity(7.584), QStringLiteral("7,58"));
        QCOMPARE(format::perplexity(7.584, 0.11), QStringLiteral("7,58 ± 0,11"));
        QCOMPARE(format::delta(-0.02), minus + QStringLiteral("0,02"));
        QCOMPARE(format::delta(0.36), QStringLiteral("+0,36"));
        QVERIFY(format::bytes(std::int64_t(20.9 * 1024 * 1024 * 1024)).startsWith(QStringLiteral("20,9")));
        QVERIFY(format::score(0.0214).startsWith(QStringLiteral("0,0214")));
        QCOMPARE(format::signedNumber(-0.001, 2), QStringLiteral("0"));
        QCOMPARE(format::number(kNaN, 2), QStringLiteral("no value"));
    }

    void legendListsOnlyWhatIsThere()
    {
        Heatmap map;
        QVERIFY2(map.view.legend().isEmpty(), qPrintable(map.view.legend().join(QStringLiteral(", "))));
        Result<CompressionPlan> dropped = map.plan.withKept(map.shape, 1, {0, 1, 2, 3, 4, 5});
        QVERIFY(dropped.ok());
        map.view.setPlan(*dropped);
        QCOMPARE(map.view.legend(), QStringList{QStringLiteral("dropped")});
        map.view.setPlan(map.plan.withProtected(0, 3, true));
        QCOMPARE(map.view.legend(), QStringList{QStringLiteral("protected")});
        map.view.setPlan(map.plan.withLocked(2, true));
        QCOMPARE(map.view.legend(), QStringList{QStringLiteral("locked layer")});
        map.view.setPlan(map.plan);
        ExpertScores holes = scoresFor(map.shape);
        holes.values.rows[0][0] = kNaN;
        map.view.setScores(holes);
        QCOMPARE(map.view.legend(), QStringList{QStringLiteral("no value")});
    }

    void keysEmitIntents()
    {
        Heatmap map;
        map.selection.setCurrent({2, 5});
        QSignalSpy toggles(&map.view, &HeatmapView::toggleRequested);
        QSignalSpy protections(&map.view, &HeatmapView::protectRequested);
        QSignalSpy locks(&map.view, &HeatmapView::lockRequested);
        map.key(Qt::Key_Space);
        QCOMPARE(toggles.size(), 1);
        QCOMPARE(toggles.first().at(0).toInt(), 2);
        QCOMPARE(toggles.first().at(1).toInt(), 5);
        map.key(Qt::Key_P);
        QCOMPARE(protections.size(), 1);
        map.key(Qt::Key_L);
        QCOMPARE(locks.size(), 1);
        QCOMPARE(locks.first().at(0).toInt(), 2);
        map.key(Qt::Key_Right);
        QCOMPARE(map.selection.current(), (CellId{2, 6}));
        // Showing is not editing: the plan was not touched by any of this.
        QCOMPARE(map.view.facts({2, 5})->view.state, ExpertState::Kept);
    }

    void everyCellHasFactsAndAPlace()
    {
        Heatmap map;
        map.view.plot()->replot();
        for (int layer = 0; layer < 4; ++layer) {
            for (int expert = 0; expert < 8; ++expert) {
                const CellId cell{layer, expert};
                QVERIFY(map.view.facts(cell).has_value());
                QVERIFY(!map.view.factsText(cell).isEmpty());
                QCOMPARE(map.view.expertAtColumn(layer, map.view.columnOf(cell)), expert);
                const QRectF at = map.view.cellRect(cell);
                QVERIFY(!at.isEmpty());
                QCOMPARE(map.view.cellAt(at.center()), cell);
            }
        }
        QVERIFY(!map.view.facts({9, 0}).has_value());
        QVERIFY(!map.view.facts({0, 8}).has_value());
    }
};

int main(int argc, char** argv)
{
    if (!qEnvironmentVariableIsSet("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
    QApplication application(argc, argv);
    QLocale::setDefault(QLocale(QLocale::English, QLocale::UnitedStates));
    ThemeController themes;
    themes.apply();
    LookTest test;
    return QTest::qExec(&test, argc, argv);
}

#include "test_look.moc"
